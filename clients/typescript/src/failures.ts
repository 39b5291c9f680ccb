/** How many calls failed open and closed since the client was created, for your metrics. */
export interface Failures {
  /** Calls allowed because the service failed. */
  readonly open: number;
  /** Calls denied because the service failed. */
  readonly closed: number;
}
