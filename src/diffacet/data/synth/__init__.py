"""Generated logs with planted interests, of any size.

The model (docs/synth.md): T topics are directions on a sphere, each with a ring about it on which its items lie; the
popularity of items follows (rank + q)^-s. A user has K_u of 1..5 interests, each a topic and a place on its ring, with
weights that move over the user's life; a session is mostly about one of them. A click falls near that place, near the
click before it, and on the item whose arc of the ring, as long as its popularity at that time, lies there. Some clicks
are noise: any item, by popularity.
"""
