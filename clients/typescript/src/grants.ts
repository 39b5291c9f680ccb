/**
 * What a client in mode `granted` has decided and asked for since it was created, for your metrics. The hit ratio is
 * `(allowed + denied) / (allowed + denied + waited)`.
 */
export interface Grants {
  /** Calls that were allowed by units that the client had, without waiting. */
  readonly allowed: number;
  /** Calls that were denied without waiting, because the service had denied units before. */
  readonly denied: number;
  /** Calls that waited for units, or were checked one by one. */
  readonly waited: number;
  /** Requests for units, and those that only return some. The checks of calls one by one are not in it. */
  readonly requests: number;
  /** Units that the service has granted. A unit is one call. */
  readonly granted: number;
  /** Units that were not spent, and that the client has returned before they expired. */
  readonly returned: number;
  /**
   * Units that expired before they were spent. The client returns them, too, but the service may have counted them as
   * spent.
   */
  readonly expired: number;
  /** Units that the client has now. */
  readonly held: number;
}

/** Those of a client that has none. */
export const NO_GRANTS: Grants = {
  allowed: 0,
  denied: 0,
  waited: 0,
  requests: 0,
  granted: 0,
  returned: 0,
  expired: 0,
  held: 0,
};
