"""In: this installation, and the addresses of servers if any are given.

Out: what is installed, which devices and keys there are, and what works. Touches: the packages and devices of this
machine, which it only looks at, and the given servers, which it asks for their models.
"""
