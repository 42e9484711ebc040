// A client of the market in another language: prints what it is told as one JSON object.
// node node_client.js HOST:PORT PROTO_FOLDER WORK_CLASS
'use strict';

const path = require('path');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const [address, protos, workClass] = process.argv.slice(2);
const definition = loader.loadSync(path.join('flopmarket', 'v1', 'market.proto'), {
  includeDirs: [protos],
  longs: String,
  enums: String,
  bytes: String,
});
const { MarketService } = grpc.loadPackageDefinition(definition).flopmarket.v1;
const client = new MarketService(address, grpc.credentials.createInsecure());
const deadline = () => ({ deadline: Date.now() + 10_000 });

const call = (name, request) =>
  new Promise((resolve, reject) => {
    client[name](request, deadline(), (error, answer) => (error ? reject(error) : resolve(answer)));
  });

const first = (name, request) =>
  new Promise((resolve, reject) => {
    const stream = client[name](request, deadline());
    stream.on('data', (message) => {
      resolve(message);
      stream.cancel();
    });
    stream.on('error', reject);
  });

const reasonOf = (error) => {
  // google.rpc.Status in grpc-status-details-bin; the reason stands in it as plain ASCII.
  const details = error.metadata.get('grpc-status-details-bin')[0].toString('latin1');
  return /[A-Z][A-Z_]{5,}/.exec(details)[0];
};

const main = async () => {
  const answers = {
    spot: await call('GetSpot', {}),
    offers: await call('ListOffers', {
      orderBy: '-memory',
      filters: [{ field: 'state', op: '=', value: 'idle' }],
    }),
    book: await call('GetBook', { workClass }),
    history: await call('GetHistory', { workClass, resolutionSeconds: 86_400 }),
    trades: await first('StreamTrades', { workClass }),
  };
  const resumeToken = answers.trades.resumeToken;
  answers.resumed = await first('StreamTrades', { workClass, resumeToken });
  try {
    await call('GetHistory', { workClass: 'no such class' });
  } catch (error) {
    answers.refused = { code: error.code, reason: reasonOf(error) };
  }
  process.stdout.write(JSON.stringify(answers));
};

main()
  .catch((error) => {
    process.stderr.write(`${error.stack}\n`);
    process.exitCode = 1;
  })
  .finally(() => client.close());
