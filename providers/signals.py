"""What providers tells whoever wants to know, without knowing who that is."""

from django.dispatch import Signal

# A connection test has asked an endpoint for an answer, which may cost. Sent outside of any event
# loop with `trial`, a `providers.probe.Trial`, and `user`, who asked for the test, or None.
answer_tried = Signal()
