"""Work on a cluster of machines by Ray, an existing one or one on this machine; needs the extra `ray`.

Nothing outside this package imports Ray.
"""
