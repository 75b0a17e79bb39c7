"""One package per AWS service: small handler functions per operation, on top of the store and the workflows."""
