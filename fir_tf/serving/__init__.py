"""SavedModels: image bytes -> embedding and categories."""
