"""What a command line may be given, and settings that lead nowhere."""

from __future__ import annotations

#: Texts that may come as any argument.
HOSTILE = (
    "",
    "../../etc/passwd",
    "'; DROP TABLE assets; --",
    "\udcff\udc00",
    "🙂\u202e",
    "a,b=c,,",
    "x" * 5000,
    "-1",
)
#: Addresses at which nothing answers.
NOWHERE = {
    "TIMESCALE_DSN": "postgresql://nobody:secret-of-a-test@127.0.0.1:1/none",
    "REDIS_URL": "redis://:secret-of-a-test@127.0.0.1:1/0",
    "MINIO_ENDPOINT_URL": "http://127.0.0.1:1",
    "MINIO_ACCESS_KEY": "key",
    "MINIO_SECRET_KEY": "secret-of-a-test",
    "MLFLOW_TRACKING_URI": "http://127.0.0.1:1",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "FEAST_REGISTRY_URI": "sqlite:////nowhere/registry.db",
    "AI_HUB_API_URL": "http://127.0.0.1:1",
}
