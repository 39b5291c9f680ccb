/** How many calls failed since the client was created, for your metrics. */
export interface Failures {
  /** Calls allowed because the service failed. */
  readonly open: number;
  /** Calls denied because the service failed. */
  readonly closed: number;
  /** Reservations that were not settled because the service failed, or because their hold had run out. */
  readonly unsettled: number;
}
