"""Everything that understands what annotation tools write."""
