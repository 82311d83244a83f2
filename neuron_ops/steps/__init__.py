"""The steps: the table that declares them, the addresses of what they make, and one program for each verb."""
