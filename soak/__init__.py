"""`make soak`: a complete installation under mixed load and constant faults, with a judge that knows every correct
response.

objects   the objects at each path: bodies are functions of path and version, and contain both
truth     the expected state at each moment: versions, faults, kills, trusted keys, invalidations
origin    the origin, correct or faulty depending on the injected faults
tickets   credentials, valid and invalid, and their required outcome
viewer    viewers on raw sockets
flood     viewers that send far too many header lines
judge     comparison of each response with the truth
churn     the operator's changes, and the kills
watch     memory, file descriptors, Keyfront's log, and the access records
"""
