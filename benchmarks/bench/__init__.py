"""``make bench``: how fast and how small we are beside what a user would pick instead.

One table, one run, every row a ratio. ``measure.py`` has the clocks, the order A B B A and the
check that both sides compute the same; ``jobs.py`` lists what is measured, each job in a process of
its own; ``ours.py`` and ``peers.py`` have the two sides; ``table.py`` writes the results.
"""
