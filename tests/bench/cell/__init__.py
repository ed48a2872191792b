"""How many nodes one cell (a broker and its API processes) serves: measured, simulated, and the two compared.

``events`` knows who waits for whose processor, ``server`` what a request costs, ``fleet`` and ``node``
what is asked for. ``costs`` measures that, ``runs`` asks the questions, ``real`` drives a real cell to
see how far off the answers are, ``shards`` looks at how evenly queues lie on a cluster.
"""
