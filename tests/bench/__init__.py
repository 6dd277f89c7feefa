"""What rekeyd costs beside others that do the same: `make bench`, or `PYTHONPATH=tests python -m bench`.

Each server has the same certificate, the same key check, the same upstream and one worker. What is told is
the CPU that its processes spend for one operation, and what that is of rekeyd's.
"""
