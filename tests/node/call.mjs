// One call of the control API through @aws-sdk/client-cloudfront:  node call.mjs CreateKeyGroup '{"KeyGroupConfig": …}'
import * as cf from '@aws-sdk/client-cloudfront';

const [, , operation, input] = process.argv;
const client = new cf.CloudFrontClient({ endpoint: process.env.AWS_ENDPOINT_URL, region: 'us-east-1', maxAttempts: 1 });
const { $metadata, ...output } = await client.send(new cf[`${operation}Command`](JSON.parse(input)));
console.log(JSON.stringify(output));
