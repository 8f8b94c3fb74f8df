"""The gates that come with the registry; others join by the entry point group `ai_hub.promotion_gates`."""
