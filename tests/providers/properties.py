"""How properties are tested: hypothesis makes up the cases, and keeps those that failed.

What it keeps is in .cache/, which is not under version control. Import this before hypothesis is
used; `@prop` is the decorator of such a test.
"""

import os
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir

set_hypothesis_home_dir(Path(__file__).parents[2] / ".cache" / "hypothesis")

# No deadline: the machine may be busy with something else. CI is to say what a change broke, and so
# has the same cases each time; new ones are found everywhere else.
prop = settings(
    deadline=None,
    max_examples=200,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=bool(os.environ.get("CI")),
)


def cuts(body: bytes) -> st.SearchStrategy[list[bytes]]:
    """The body in pieces, cut anywhere, some of them empty."""
    places = st.lists(st.integers(0, len(body)), max_size=12).map(sorted)
    return places.map(
        lambda found: [body[i:j] for i, j in zip([0, *found], [*found, len(body)], strict=True)]
    )
