"""From raw files to a click data folder.

    generic      samples, behaviours, items and users in any tables, columns found by their names or told
    ratings      the task made of a rating log, or of a log of purchases with sampled negatives
    impressions  showings with their clicks in one table
    alibaba      the display ads of Alibaba (Tianchi 56): behaviours in blocks of users, memory bounded
    eleme        the food orders of Ele.me (Tianchi 131047): each sample with its history inside

Every one of them gives a `folder.Made`, or writes a folder that `diffacet.data.clicks.read` opens.
"""
