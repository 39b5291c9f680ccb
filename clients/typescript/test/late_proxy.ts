import net from "node:net";

/**
 * A proxy that takes connections at once, as a listening socket does, but forwards nothing until it accepts them. Node.js
 * cannot listen without accepting.
 */
export class LateProxy {
  private readonly sockets = new Set<net.Socket>();
  private readonly timers = new Set<NodeJS.Timeout>();

  private constructor(private readonly server: net.Server) {}

  /** @param acceptsAfterMs from now on. Null: never. */
  static async to(target: string, acceptsAfterMs: number | null): Promise<LateProxy> {
    const [host, port] = target.split(":");
    const acceptsAt = acceptsAfterMs === null ? Infinity : performance.now() + acceptsAfterMs;
    const proxy: LateProxy = new LateProxy(
      net.createServer({ pauseOnConnect: true }, (near) => {
        proxy.keep(near);
        if (acceptsAt === Infinity) {
          return;
        }
        const forward = () => {
          const far = net.connect(Number(port), host);
          proxy.keep(far);
          near.pipe(far);
          far.pipe(near);
        };
        proxy.timers.add(setTimeout(forward, Math.max(0, acceptsAt - performance.now())));
      }),
    );
    await new Promise<void>((resolve) => proxy.server.listen(0, "127.0.0.1", resolve));
    return proxy;
  }

  get target(): string {
    return `127.0.0.1:${(this.server.address() as net.AddressInfo).port}`;
  }

  close(): void {
    this.timers.forEach((timer) => clearTimeout(timer));
    this.sockets.forEach((socket) => socket.destroy());
    this.server.close();
  }

  private keep(socket: net.Socket): void {
    this.sockets.add(socket);
    socket.on("error", () => {});
  }
}
