"""The commands that compute, compare, list and watch: parse, call, print."""
