"""Usage: counts by minute, hour and day, what was flushed and by whom, and when each key was last used."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_COUNTS = """
            allowed bigint NOT NULL,
            denied bigint NOT NULL,
            cost bigint NOT NULL,
            shadow_denied bigint NOT NULL,
            degraded bigint NOT NULL"""


def upgrade() -> None:
    """Create the tables of usage. Those of counts are partitioned by time; the leader makes their partitions."""
    op.execute("""
        CREATE TABLE leases (
            name text CONSTRAINT leases_pkey PRIMARY KEY,
            number bigint NOT NULL,
            holder text NOT NULL,
            expire_time timestamptz NOT NULL
        );
        COMMENT ON COLUMN leases.number IS 'Counts the holders; what a former one writes is refused by it.';

        CREATE TABLE usage_series (
            series_id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT usage_series_pkey PRIMARY KEY,
            digest bytea NOT NULL CONSTRAINT usage_series_digest_key UNIQUE,
            kind text NOT NULL CONSTRAINT usage_series_kind_check CHECK (kind IN ('key', 'rule')),
            key_id text COLLATE "C" NOT NULL,
            resource text COLLATE "C" NOT NULL,
            subject text COLLATE "C" NOT NULL,
            plan text COLLATE "C" NOT NULL,
            domain text COLLATE "C" NOT NULL,
            rule text COLLATE "C" NOT NULL
        );
        COMMENT ON COLUMN usage_series.digest IS 'Of all that follows, which may be too long for an index.';
        CREATE INDEX usage_series_key_id_idx ON usage_series (key_id) WHERE kind = 'key';
        CREATE INDEX usage_series_subject_idx ON usage_series (subject) WHERE kind = 'key';
        CREATE INDEX usage_series_plan_idx ON usage_series (plan) WHERE kind = 'key';
        CREATE INDEX usage_series_resource_idx ON usage_series (resource) WHERE kind = 'key';
        CREATE INDEX usage_series_domain_idx ON usage_series (domain) WHERE kind = 'rule';
    """)
    op.execute(f"""
        CREATE TABLE usage_minute (
            minute timestamptz NOT NULL,
            series_id bigint NOT NULL,{_COUNTS}
        ) PARTITION BY RANGE (minute);
        CREATE INDEX usage_minute_minute_idx ON usage_minute (minute);
        CREATE INDEX usage_minute_series_id_minute_idx ON usage_minute (series_id, minute);
        COMMENT ON TABLE usage_minute IS 'Several rows of one minute and series add up.';

        CREATE TABLE usage_limit_minute (
            minute timestamptz NOT NULL,
            series_id bigint NOT NULL,
            limit_name text COLLATE "C" NOT NULL,
            denied bigint NOT NULL,
            shadow_denied bigint NOT NULL
        ) PARTITION BY RANGE (minute);
        CREATE INDEX usage_limit_minute_minute_idx ON usage_limit_minute (minute);
        CREATE INDEX usage_limit_minute_series_id_minute_idx ON usage_limit_minute (series_id, minute);
        COMMENT ON TABLE usage_limit_minute IS 'Several rows of one minute, series and limit add up.';
    """)
    for level in ("hour", "day"):
        op.execute(f"""
            CREATE TABLE usage_{level} (
                {level} timestamptz NOT NULL,
                series_id bigint NOT NULL,{_COUNTS},
                CONSTRAINT usage_{level}_pkey PRIMARY KEY (series_id, {level})
            ) PARTITION BY RANGE ({level});
            CREATE INDEX usage_{level}_{level}_idx ON usage_{level} ({level});

            CREATE TABLE usage_limit_{level} (
                {level} timestamptz NOT NULL,
                series_id bigint NOT NULL,
                limit_name text COLLATE "C" NOT NULL,
                denied bigint NOT NULL,
                shadow_denied bigint NOT NULL,
                CONSTRAINT usage_limit_{level}_pkey PRIMARY KEY (series_id, limit_name, {level})
            ) PARTITION BY RANGE ({level});
            CREATE INDEX usage_limit_{level}_{level}_idx ON usage_limit_{level} ({level});
        """)
    for level in ("minute", "hour", "day"):
        op.execute(f"""
            CREATE TABLE usage_plan_{level} (
                {level} timestamptz NOT NULL,
                plan text COLLATE "C" NOT NULL,
                domain text COLLATE "C" NOT NULL,{_COUNTS},
                CONSTRAINT usage_plan_{level}_pkey PRIMARY KEY ({level}, plan, domain)
            ) PARTITION BY RANGE ({level});
            COMMENT ON TABLE usage_plan_{level} IS 'All series of a plan, or of the rules of a domain.';
        """)
    op.execute("""
        CREATE TABLE usage_segments (
            tag text COLLATE "C" NOT NULL,
            name text COLLATE "C" NOT NULL,
            number bigint NOT NULL,
            first_minute timestamptz NOT NULL,
            calls bigint NOT NULL,
            fields bigint NOT NULL,
            flush_time timestamptz NOT NULL,
            CONSTRAINT usage_segments_pkey PRIMARY KEY (tag, name)
        );
        COMMENT ON TABLE usage_segments IS 'The segments of the bucket store that were flushed, each once.';
        CREATE INDEX usage_segments_flush_time_idx ON usage_segments (flush_time);
        CREATE INDEX usage_segments_tag_flush_time_number_idx ON usage_segments (tag, flush_time, number);

        CREATE TABLE usage_losses (
            loss_id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT usage_losses_pkey PRIMARY KEY,
            time timestamptz NOT NULL,
            start_time timestamptz NOT NULL,
            end_time timestamptz NOT NULL,
            cause text NOT NULL,
            calls bigint NOT NULL
        );
        COMMENT ON TABLE usage_losses IS 'Counts that the bucket store lost with its data.';
        COMMENT ON COLUMN usage_losses.calls IS 'How many, 0 when that is not known.';
        CREATE INDEX usage_losses_end_time_idx ON usage_losses (end_time);

        CREATE TABLE key_last_used (
            key_id text COLLATE "C" CONSTRAINT key_last_used_pkey PRIMARY KEY,
            last_used timestamptz NOT NULL
        );
        COMMENT ON COLUMN key_last_used.last_used IS 'The start of the last minute with a call.';
        CREATE INDEX key_last_used_last_used_idx ON key_last_used (last_used);
    """)


def downgrade() -> None:
    """Drop them, with everything in them."""
    op.execute("""
        DROP TABLE usage_minute, usage_hour, usage_day, usage_limit_minute, usage_limit_hour, usage_limit_day,
            usage_plan_minute, usage_plan_hour, usage_plan_day, usage_series, usage_segments, usage_losses,
            key_last_used, leases;
    """)
