"""A log larger than memory, piece by piece: the steps from raw files to partitions by user, each a pure function.

    scatter    a piece of the raw files -> rows by partition in one spill file, items counted
    sort       a partition's rows of all spill files -> ids numbered, canonical order
    count      a sorted partition under filters -> what is left of it
    finish     a sorted partition -> its files in the data directory

A step takes one argument that can be sent to another process, reads and writes files in one folder, and gives back
small facts. So a driver may map it over pieces or partitions here or on many machines that share the folder, in any
order and as often as it likes: what the steps write depends on nothing but the rows.
"""
