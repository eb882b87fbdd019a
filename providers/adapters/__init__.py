"""One module for each kind of provider; `registry` finds them."""
