-- Who may ask: keys of the REST service, and logins that tenants use SQL with.

-- A key's secret is 256 random bits, which nobody can guess: a plain SHA-256 protects it as well as a slow hash would.
CREATE TABLE api_keys (
    key_id     text PRIMARY KEY CHECK (key_id ~ '^[a-z0-9]{12}$'),
    sha256     bytea NOT NULL CHECK (octet_length(sha256) = 32),
    -- unique in each tenant among the keys in force
    name       text NOT NULL CHECK (name <> ''),
    tenants    text[] NOT NULL CHECK (cardinality(tenants) > 0),
    scopes     text[] NOT NULL CHECK (cardinality(scopes) > 0),
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz CHECK (expires_at > created_at),
    revoked_at timestamptz
);

-- Which tenant a login sees; only the owner can change it.
CREATE TABLE sql_logins (
    login      name PRIMARY KEY,
    tenant_id  text NOT NULL CHECK (tenant_id ~ '^[a-z0-9][a-z0-9-]*$'),
    created_at timestamptz NOT NULL DEFAULT now()
);
