"""What a language-model provider is: its configuration, its wire format, its errors and prices.

Nothing in this package knows a request, a session or a page, and nothing above `models.py`
imports Django.
"""
