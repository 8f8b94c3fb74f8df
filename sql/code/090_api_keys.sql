-- Notes that keys were changed or deleted, whoever did it. The row's lock lets revisions be seen in the order of their
-- commits, which numbers of a sequence would not.

CREATE OR REPLACE FUNCTION note_api_key_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE public.api_key_revision SET revision = revision + 1;
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER api_keys_changed AFTER UPDATE OR DELETE OR TRUNCATE ON api_keys
FOR EACH STATEMENT EXECUTE FUNCTION note_api_key_change();

GRANT SELECT ON api_key_revision TO ai_hub_service;
