"""Jobs that are disturbed: killed, stopped, cut off, with a full disk, a torn file or a clock that jumps.

    python -m nas.testing.faults --rounds 100

A round runs a short job as a user does, in a process group of its own, injects a fault at a point that its seed draws,
goes on with the run, and holds what is left to a law: nothing that was acknowledged is lost or evaluated again, and in
the end the run is bit for bit that of the same configuration which nobody disturbed. For Linux.
"""
