// Makes calls with stock @grpc/grpc-js and prints their outcomes: a line of JSON in, a line of JSON out.
import readline from "node:readline";
import * as grpc from "@grpc/grpc-js";

const asIs = (bytes) => bytes;

const client = new grpc.Client(process.argv[2], grpc.credentials.createInsecure());
const compressing = new grpc.Client(process.argv[2], grpc.credentials.createInsecure(), {
  "grpc.default_compression_algorithm": grpc.compressionAlgorithms.gzip,
});

function run(spec) {
  const metadata = new grpc.Metadata();
  for (const [key, value] of Object.entries(spec.metadata)) metadata.set(key, value);
  const options = { deadline: Date.now() + spec.timeout * 1000 };
  const messages = spec.messages.map((text) => Buffer.from(text, "base64"));
  const used = spec.gzip ? compressing : client;
  const answers = [];
  return new Promise((resolve) => {
    let call;
    if (spec.stream) {
      call = used.makeBidiStreamRequest(spec.method, asIs, asIs, metadata, options);
      call.on("data", (answer) => answers.push(answer.toString("base64")));
      call.on("error", () => {}); // the status has it
      for (const message of messages) call.write(message);
      if (!spec.cancel_after) call.end();
    } else {
      const done = (_error, answer) => {
        if (answer) answers.push(answer.toString("base64"));
      };
      call = used.makeUnaryRequest(spec.method, asIs, asIs, messages[0], metadata, options, done);
    }
    call.on("status", (status) => {
      const [details] = status.metadata.get("grpc-status-details-bin");
      const outcome = {
        code: status.code,
        message: status.details,
        details: details ? details.toString("base64") : "",
        answers,
      };
      setImmediate(() => resolve(outcome)); // the answer's own callback comes last
    });
    if (spec.cancel_after) setTimeout(() => call.cancel(), spec.cancel_after * 1000);
  });
}

for await (const line of readline.createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(await run(JSON.parse(line))));
}
process.exit(0);
