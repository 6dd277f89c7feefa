// Qdrant's JavaScript client, as a user has it: `node qdrant.mjs URL KEY STEP…`, the CA in NODE_EXTRA_CA_CERTS.
// Prints what came of each step, as JSON: what was found, or the status of the refusal.
import { QdrantClient } from "@qdrant/js-client-rest";

const [url, apiKey, ...steps] = process.argv.slice(2);
const client = new QdrantClient({ url, apiKey, checkCompatibility: false, timeout: 15_000 });
const points = [
  { id: 1, vector: [0.05, 0.61, 0.76, 0.74], payload: { city: "Berlin" } },
  { id: 2, vector: [0.19, 0.81, 0.75, 0.11], payload: { city: "London" } },
];

const does = {
  create: () => client.createCollection("towns", { vectors: { size: 4, distance: "Dot" } }),
  upsert: async () => (await client.upsert("towns", { wait: true, points })).status,
  query: async () => {
    const found = await client.query("towns", { query: [0.2, 0.1, 0.9, 0.7], limit: 1, with_payload: true });
    return found.points.map((point) => point.payload.city);
  },
  list: async () => (await client.getCollections()).collections.map((each) => each.name),
  elsewhere: async () => (await client.scroll("cities", { limit: 1 })).points.length,
  drop: () => client.deleteCollection("towns"),
};

const said = {};
for (const step of steps) {
  try {
    said[step] = await does[step]();
  } catch (error) {
    said[step] = error.status ?? String(error);
  }
}
console.log(JSON.stringify(said));
