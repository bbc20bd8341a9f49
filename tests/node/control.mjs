// The control API through @aws-sdk/client-cloudfront, in two parts: what makes things and what removes them.
// Between the two an edge must have taken the disabled distribution.
//
//   node control.mjs begin '{"pem": "…", "reference": "…"}'   -> one JSON line with all that was answered
//   node control.mjs end   '{"…": the line that begin printed}'
import assert from 'node:assert/strict';
import * as cf from '@aws-sdk/client-cloudfront';

const client = new cf.CloudFrontClient({
  endpoint: process.env.AWS_ENDPOINT_URL,
  region: 'us-east-1',
  maxAttempts: 1,
});
const send = (name, input = {}) => client.send(new cf[`${name}Command`](input));

async function refused(name, input, exception, status) {
  await assert.rejects(send(name, input), (error) => {
    assert.equal(error.name, exception);
    assert.ok(error instanceof (cf[exception] ?? cf.CloudFrontServiceException), `${exception} is not modelled`);
    assert.equal(error.$metadata.httpStatusCode, status);
    assert.ok(error.$metadata.requestId);
    assert.ok(error.message);
    return true;
  });
}

async function begin({ pem, reference }) {
  const PublicKeyConfig = { CallerReference: reference, Name: reference, EncodedKey: pem, Comment: 'a & <b> "c" é\n' };
  const key = await send('CreatePublicKey', { PublicKeyConfig });
  assert.equal(key.$metadata.httpStatusCode, 201);
  assert.deepEqual(key.PublicKey.PublicKeyConfig, PublicKeyConfig);
  assert.ok(key.PublicKey.CreatedTime instanceof Date);
  const Id = key.PublicKey.Id;
  assert.deepEqual((await send('GetPublicKey', { Id })).PublicKey, key.PublicKey);
  await refused('CreatePublicKey', { PublicKeyConfig }, 'PublicKeyAlreadyExists', 409);
  await refused('DeletePublicKey', { Id }, 'InvalidIfMatchVersion', 400);
  await refused('DeletePublicKey', { Id, IfMatch: 'E2QWRUHAPOMQZL' }, 'PreconditionFailed', 412);
  await refused('GetPublicKey', { Id: 'KNOSUCHKEY123' }, 'NoSuchPublicKey', 404);
  const updated = await send('UpdatePublicKey', {
    Id,
    IfMatch: key.ETag,
    PublicKeyConfig: { ...PublicKeyConfig, Comment: '' },
  });
  assert.equal(updated.PublicKey.PublicKeyConfig.Comment, '');

  const group = await send('CreateKeyGroup', { KeyGroupConfig: { Name: reference, Items: [Id] } });
  const groupId = group.KeyGroup.Id;
  assert.deepEqual(group.KeyGroup.KeyGroupConfig.Items, [Id]);
  await refused('DeletePublicKey', { Id, IfMatch: updated.ETag }, 'PublicKeyInUse', 409);
  const groups = await send('ListKeyGroups');
  assert.ok(groups.KeyGroupList.Items.some((item) => item.KeyGroup.Id === groupId));

  const made = await send('CreateDistributionWithTags', {
    DistributionConfigWithTags: {
      DistributionConfig: {
        CallerReference: reference,
        Comment: '',
        Enabled: true,
        Origins: {
          Quantity: 1,
          Items: [
            {
              Id: 'app',
              DomainName: 'app.example.com',
              CustomOriginConfig: { HTTPPort: 80, HTTPSPort: 443, OriginProtocolPolicy: 'http-only' },
            },
          ],
        },
        DefaultCacheBehavior: {
          TargetOriginId: 'app',
          ViewerProtocolPolicy: 'redirect-to-https',
          CachePolicyId: '658327ea-f89d-4fab-a63d-7e88639e58f6',
          TrustedKeyGroups: { Enabled: true, Quantity: 1, Items: [groupId] },
        },
      },
      Tags: { Items: [{ Key: 'env', Value: 'té st' }] },
    },
  });
  const distribution = made.Distribution;
  assert.equal(made.$metadata.httpStatusCode, 201);
  assert.equal(distribution.Status, 'InProgress');
  assert.deepEqual(distribution.ActiveTrustedKeyGroups, {
    Enabled: true,
    Quantity: 1,
    Items: [{ KeyGroupId: groupId, KeyPairIds: { Quantity: 1, Items: [Id] } }],
  });
  await refused('DeleteKeyGroup', { Id: groupId, IfMatch: group.ETag }, 'ResourceInUse', 409);
  const Resource = distribution.ARN;
  await send('TagResource', { Resource, Tags: { Items: [{ Key: 'a b', Value: '' }] } });
  await send('UntagResource', { Resource, TagKeys: { Items: ['env'] } });
  assert.deepEqual((await send('ListTagsForResource', { Resource })).Tags.Items, [{ Key: 'a b', Value: '' }]);

  const read = await send('GetDistributionConfig', { Id: distribution.Id });
  const config = { ...read.DistributionConfig, Enabled: false };
  const disabled = await send('UpdateDistribution', {
    Id: distribution.Id,
    IfMatch: read.ETag,
    DistributionConfig: config,
  });
  assert.deepEqual(disabled.Distribution.DistributionConfig, config);
  await refused('DeleteDistribution', { Id: distribution.Id, IfMatch: disabled.ETag }, 'DistributionNotDisabled', 409);
  return {
    key: { Id, IfMatch: updated.ETag },
    group: { Id: groupId, IfMatch: group.ETag },
    distribution: { Id: distribution.Id, IfMatch: disabled.ETag },
  };
}

async function end({ key, group, distribution }) {
  const got = await send('GetDistribution', { Id: distribution.Id });
  assert.equal(got.Distribution.Status, 'Deployed');
  const ids = [];
  for await (const page of cf.paginateListDistributions({ client, pageSize: 1 }, {})) {
    ids.push(...(page.DistributionList.Items ?? []).map((item) => item.Id));
  }
  assert.ok(ids.includes(distribution.Id));
  await send('DeleteDistribution', distribution);
  await refused('GetDistribution', { Id: distribution.Id }, 'NoSuchDistribution', 404);
  await send('DeleteKeyGroup', group);
  await refused('GetKeyGroup', { Id: group.Id }, 'NoSuchResource', 404);
  await send('DeletePublicKey', key);
  await refused('ListFunctions', {}, 'UnsupportedOperation', 400);
  return {};
}

const [, , part, argument] = process.argv;
console.log(JSON.stringify(await { begin, end }[part](JSON.parse(argument))));
