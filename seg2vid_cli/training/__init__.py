"""How `street` was made, and how to train weights for another domain.

Nothing that generates imports it.
"""
