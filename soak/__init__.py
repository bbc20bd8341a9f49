"""`make soak`: a whole Keyfront under mixed load and steady misfortune, with a judge who knows every right answer.

objects   what lives at which path: bodies are functions of path and version, and say both
truth     what holds at which moment: versions, faults, kills, who is trusted, what was invalidated
origin    the origin, right and wrong by the weather
tickets   credentials, good and bad, and what they must lead to
viewer    viewers on raw sockets
flood     viewers with far too many header lines
judge     an answer beside the truth
churn     the operator's changes, and the kills
watch     memory, file descriptors, Keyfront's log, the access records
"""
