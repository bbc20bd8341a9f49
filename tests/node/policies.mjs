// Policies through @aws-sdk/client-cloudfront: each config is made, read, listed, changed and removed.
//
//   node policies.mjs '[["CachePolicy", {…given}, {…returned}], …]'   -> {"made": how many}
import assert from 'node:assert/strict';
import * as cf from '@aws-sdk/client-cloudfront';

const client = new cf.CloudFrontClient({ endpoint: process.env.AWS_ENDPOINT_URL, region: 'us-east-1', maxAttempts: 1 });
const send = (name, input = {}) => client.send(new cf[`${name}Command`](input));

async function refused(name, input, exception, status) {
  await assert.rejects(send(name, input), (error) => {
    assert.equal(error.name, exception);
    assert.ok(error instanceof cf[exception], `${exception} is not modelled`);
    assert.equal(error.$metadata.httpStatusCode, status);
    return true;
  });
}

const configs = JSON.parse(process.argv[2]);
for (const [kind, given, returned] of configs) {
  const member = `${kind}Config`;
  const made = await send(`Create${kind}`, { [member]: given });
  assert.equal(made.$metadata.httpStatusCode, 201);
  // An empty list or structure comes back from XML as nothing, or as it is: what counts is what it holds.
  const bare = (value) => JSON.parse(JSON.stringify(value, (_, v) => (v && v.Quantity === 0 ? { Quantity: 0 } : v)));
  const read = bare(made[kind][member]);
  if (JSON.stringify(returned.SecurityHeadersConfig) === '{}') {
    delete read.SecurityHeadersConfig;
    delete returned.SecurityHeadersConfig;
  }
  assert.deepEqual(read, returned);
  const Id = made[kind].Id;
  assert.ok(made[kind].LastModifiedTime instanceof Date);
  assert.equal((await send(`Get${kind}`, { Id })).ETag, made.ETag);
  await refused(`Create${kind}`, { [member]: given }, `${kind}AlreadyExists`, 409);
  const updated = await send(`Update${kind}`, { Id, IfMatch: made.ETag, [member]: { ...made[kind][member], Comment: 'js' } });
  assert.equal(updated[kind][member].Comment, 'js');
  const list = (await send(`List${kind.slice(0, -1)}ies`, { Type: 'custom' }))[`${kind}List`];
  assert.ok(list.Items.some((item) => item.Type === 'custom' && item[kind].Id === Id));
  assert.equal((await send(`ListDistributionsBy${kind}Id`, { [`${kind}Id`]: Id })).DistributionIdList.Quantity, 0);
  await refused(`Delete${kind}`, { Id, IfMatch: made.ETag }, 'PreconditionFailed', 412);
  assert.equal((await send(`Delete${kind}`, { Id, IfMatch: updated.ETag })).$metadata.httpStatusCode, 204);
  await refused(`Get${kind}`, { Id }, `NoSuch${kind}`, 404);
}
await refused('DeleteCachePolicy', { Id: '658327ea-f89d-4fab-a63d-7e88639e58f6', IfMatch: 'E1' }, 'IllegalDelete', 400);
console.log(JSON.stringify({ made: configs.length }));
