"""Load as users make it: a mix of operations, traces of arrivals, an open-loop driver, a file for Locust."""
