// Signs with @aws-sdk/cloudfront-signer. Reads a JSON array of jobs on stdin, each {kind: "url" | "cookies", args},
// and answers with an array of what the signer returned, or {error} where it threw.
import { getSignedCookies, getSignedUrl } from "@aws-sdk/cloudfront-signer";

const signers = { url: getSignedUrl, cookies: getSignedCookies };
let text = "";
for await (const chunk of process.stdin) text += chunk;
const answers = JSON.parse(text).map(({ kind, args }) => {
  try {
    return kind === "href" ? new URL(args.url).href : signers[kind](args);
  } catch (error) {
    return { error: String(error) };
  }
});
process.stdout.write(JSON.stringify(answers));
