// Calls through @aws-sdk/client-cloudfront, one a line of standard input, one answer a line of standard output.
//
//   {"send": "GetPublicKey", "input": {…}}                    -> {"status": 200, "output": {…}}, or {"error": …, "status": …}
//   {"pages": "ListDistributions", "size": 2, "input": {…}}   -> {"pages": [[id, …], …]}
//   {"wait": "DistributionDeployed", "input": {…}}            -> {"waiting": true}, and when it is so {"state": "SUCCESS"}
import readline from 'node:readline';
import * as cf from '@aws-sdk/client-cloudfront';

const client = new cf.CloudFrontClient({ endpoint: process.env.AWS_ENDPOINT_URL, region: 'us-east-1', maxAttempts: 1 });
const say = (value) => console.log(JSON.stringify(value));

async function answer({ send, pages, wait, size, input }) {
  if (send) {
    const { $metadata, ...output } = await client.send(new cf[`${send}Command`](input));
    return { status: $metadata.httpStatusCode, output };
  }
  if (pages) {
    const found = [];
    for await (const page of cf[`paginate${pages}`]({ client, pageSize: size }, input)) {
      const [list] = Object.values(page).filter((value) => value && 'Quantity' in value);
      found.push((list.Items ?? []).map((item) => item.Id));
    }
    return { pages: found };
  }
  const waiting = cf[`waitUntil${wait}`]({ client, minDelay: 1, maxDelay: 1, maxWaitTime: 20 }, input);
  say({ waiting: true });
  return { state: (await waiting).state };
}

for await (const line of readline.createInterface({ input: process.stdin })) {
  try {
    say(await answer(JSON.parse(line)));
  } catch (error) {
    const modelled = error instanceof (cf[error.name] ?? class {});
    say({ error: error.name, modelled, status: error.$metadata?.httpStatusCode, message: error.message });
  }
}
