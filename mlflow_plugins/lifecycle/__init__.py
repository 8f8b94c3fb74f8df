"""The life of a version: stages, semantic versions, audit trail."""
