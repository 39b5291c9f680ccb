"""Rights to a new table, for roles that were given theirs before a migration."""

_LIKE = """
    DO $$ DECLARE granted record; BEGIN
        FOR granted IN
            SELECT DISTINCT privilege_type AS privilege,
                CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END AS who
            FROM pg_class, aclexplode(relacl)
            WHERE pg_class.oid = '{like}'::regclass AND grantee <> relowner AND privilege_type IN ('SELECT', 'INSERT')
        LOOP
            EXECUTE format('GRANT %s ON {table} TO %s',
                CASE granted.privilege WHEN 'SELECT' THEN 'SELECT' ELSE '{writing}' END, granted.who);
        END LOOP;
    END $$;
"""


def grant_as_for(like: str, table: str, *, writing: str) -> str:
    """The statement that gives who may read LIKE the same of TABLE, and who may insert there the rights WRITING."""
    return _LIKE.format(like=like, table=table, writing=writing)
