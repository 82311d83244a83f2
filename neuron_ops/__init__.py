"""The compute side: small programs that each turn finished artifacts into one finished artifact.

Nothing here knows that Dagster exists, and importing this package imports nothing else.
"""
