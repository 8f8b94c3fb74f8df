-- Tables and views of users that feature views read: the service may read them, too.

CREATE TABLE served_relations (
    relation name PRIMARY KEY,
    -- it has no tenant_id: every tenant reads the same rows
    shared   boolean NOT NULL
);
