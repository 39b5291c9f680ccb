"""Keys, plans, overrides, tokens, the audit log and the outbox of changes."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the first tables."""
    op.execute("""
        CREATE TABLE plans (
            plan_id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT plans_pkey PRIMARY KEY,
            name text COLLATE "C" NOT NULL,
            version bigint NOT NULL,
            create_time timestamptz NOT NULL,
            delete_time timestamptz
        );
        CREATE UNIQUE INDEX plans_name_key ON plans (name) WHERE delete_time IS NULL;
        COMMENT ON COLUMN plans.version IS 'The one in force.';
        COMMENT ON COLUMN plans.delete_time IS 'Kept for the revoked keys that were on it; its name is free again.';

        CREATE TABLE plan_versions (
            plan_id bigint NOT NULL CONSTRAINT plan_versions_plan_id_fkey REFERENCES plans (plan_id),
            version bigint NOT NULL,
            limits jsonb NOT NULL,
            on_store_failure text NOT NULL
                CONSTRAINT plan_versions_on_store_failure_check CHECK (on_store_failure IN ('local', 'allow', 'deny')),
            description text NOT NULL,
            create_time timestamptz NOT NULL,
            CONSTRAINT plan_versions_pkey PRIMARY KEY (plan_id, version)
        );
        COMMENT ON COLUMN plan_versions.limits IS 'A list of limits, in the plan''s order.';

        CREATE TABLE keys (
            key_id text COLLATE "C" CONSTRAINT keys_pkey PRIMARY KEY,
            number bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT keys_number_key UNIQUE,
            subject text NOT NULL,
            plan_id bigint NOT NULL CONSTRAINT keys_plan_id_fkey REFERENCES plans (plan_id),
            state text NOT NULL CONSTRAINT keys_state_check CHECK (state IN ('active', 'suspended', 'revoked')),
            description text NOT NULL,
            revision bigint NOT NULL,
            create_time timestamptz NOT NULL,
            update_time timestamptz NOT NULL,
            expire_time timestamptz
        );
        CREATE INDEX keys_subject_number_idx ON keys (subject, number);
        CREATE INDEX keys_plan_id_number_idx ON keys (plan_id, number);
        COMMENT ON COLUMN keys.number IS 'Order of creation.';
        COMMENT ON COLUMN keys.revision IS 'Counts the changes.';

        CREATE TABLE key_secrets (
            key_id text COLLATE "C" NOT NULL CONSTRAINT key_secrets_key_id_fkey REFERENCES keys (key_id),
            digest bytea NOT NULL,
            pepper_version integer NOT NULL,
            expire_time timestamptz,
            CONSTRAINT key_secrets_pkey PRIMARY KEY (key_id, digest)
        );
        COMMENT ON COLUMN key_secrets.digest IS 'HMAC-SHA256 under the pepper of this version.';
        COMMENT ON COLUMN key_secrets.expire_time IS 'Absent for the current one.';

        CREATE TABLE overrides (
            level text NOT NULL CONSTRAINT overrides_level_check CHECK (level IN ('key', 'subject')),
            target text COLLATE "C" NOT NULL,
            limit_name text COLLATE "C" NOT NULL,
            limit_document jsonb NOT NULL,
            expire_time timestamptz,
            CONSTRAINT overrides_pkey PRIMARY KEY (level, target, limit_name)
        );
        COMMENT ON COLUMN overrides.target IS 'A key_id or a subject.';

        CREATE TABLE audit_events (
            event_id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT audit_events_pkey PRIMARY KEY,
            time timestamptz NOT NULL,
            actor text NOT NULL,
            action text NOT NULL,
            target text NOT NULL,
            detail jsonb NOT NULL
        );
        CREATE INDEX audit_events_target_event_id_idx ON audit_events (target, event_id);

        CREATE TABLE admin_tokens (
            token_id text COLLATE "C" CONSTRAINT admin_tokens_pkey PRIMARY KEY,
            name text COLLATE "C" NOT NULL,
            role text NOT NULL CONSTRAINT admin_tokens_role_check CHECK (role IN ('viewer', 'admin', 'gateway')),
            digest bytea NOT NULL,
            create_time timestamptz NOT NULL,
            revoke_time timestamptz
        );
        CREATE UNIQUE INDEX admin_tokens_name_key ON admin_tokens (name) WHERE revoke_time IS NULL;
        COMMENT ON COLUMN admin_tokens.digest IS 'SHA-256 of the token.';

        CREATE TABLE changes (
            number bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT changes_pkey PRIMARY KEY,
            kind text NOT NULL CONSTRAINT changes_kind_check CHECK (kind IN ('key', 'subject', 'plan')),
            name text NOT NULL,
            time timestamptz NOT NULL
        );
        COMMENT ON COLUMN changes.number IS 'Counts up in the order of commits.';
    """)


def downgrade() -> None:
    """Drop them, with everything in them."""
    op.execute("DROP TABLE changes, admin_tokens, audit_events, overrides, key_secrets, keys, plan_versions, plans")
