"""Our policies in other people's trainers, one file a library, each imported only where it is used.

Nothing else in the package knows another trainer. An adapter packs the state of a policy into what
the library carries, and tells the policy where episodes start.
"""
