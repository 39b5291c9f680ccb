"""Descriptor rules by domain, and changes of kind `domain`."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables of rules."""
    op.execute("""
        CREATE TABLE rule_domains (
            domain_id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT rule_domains_pkey PRIMARY KEY,
            domain text COLLATE "C" NOT NULL,
            version bigint NOT NULL,
            create_time timestamptz NOT NULL,
            delete_time timestamptz
        );
        CREATE UNIQUE INDEX rule_domains_domain_key ON rule_domains (domain) WHERE delete_time IS NULL;
        COMMENT ON COLUMN rule_domains.version IS 'The one in force.';
        COMMENT ON COLUMN rule_domains.delete_time IS 'Kept for its versions; its name is free again.';

        CREATE TABLE rule_versions (
            domain_id bigint NOT NULL CONSTRAINT rule_versions_domain_id_fkey REFERENCES rule_domains (domain_id),
            version bigint NOT NULL,
            descriptors jsonb NOT NULL,
            on_store_failure text NOT NULL CONSTRAINT rule_versions_on_store_failure_check
                CHECK (on_store_failure IN ('fail', 'local', 'allow', 'deny')),
            description text NOT NULL,
            create_time timestamptz NOT NULL,
            CONSTRAINT rule_versions_pkey PRIMARY KEY (domain_id, version)
        );
        COMMENT ON COLUMN rule_versions.descriptors IS 'The tree of rules, in its order.';

        ALTER TABLE changes
            DROP CONSTRAINT changes_kind_check,
            ADD CONSTRAINT changes_kind_check CHECK (kind IN ('key', 'subject', 'plan', 'domain'));
    """)


def downgrade() -> None:
    """Drop them, with everything in them."""
    op.execute("""
        DELETE FROM changes WHERE kind = 'domain';
        ALTER TABLE changes
            DROP CONSTRAINT changes_kind_check,
            ADD CONSTRAINT changes_kind_check CHECK (kind IN ('key', 'subject', 'plan'));
        DROP TABLE rule_versions, rule_domains;
    """)
