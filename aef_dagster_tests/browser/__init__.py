"""A package, so that fixtures of this folder end with it: Playwright and the servers would
otherwise stay for all other tests."""
