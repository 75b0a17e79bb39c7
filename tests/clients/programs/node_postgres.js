// What users of node-postgres do, with more clients than the proxy has connections.
// Reached by PGHOST, PGPORT, PGUSER, PGPASSWORD, PGSSLROOTCERT. Fails by its exit status.
"use strict";

const assert = require("node:assert");
const fs = require("node:fs");
const { pipeline } = require("node:stream/promises");
const { Readable } = require("node:stream");
const { Client, Pool } = require("pg");
const Cursor = require("pg-cursor");
const copy = require("pg-copy-streams");

const CLIENTS = 16;
const ROUNDS = 8;
const reached = { database: "postgres", ssl: { ca: fs.readFileSync(process.env.PGSSLROOTCERT, "utf8") } };

async function client(pool, number) {
  const session = await pool.connect();
  try {
    for (let turn = 0; turn < ROUNDS; turn++) {
      const sum = { name: "sum", text: "SELECT $1::int + $2::int AS sum", values: [number, turn] };
      assert.strictEqual((await session.query(sum)).rows[0].sum, number + turn);
      await session.query("BEGIN");
      await session.query({ name: "insert", text: "INSERT INTO node_rows VALUES ($1, $2)", values: [number, turn] });
      await session.query(turn % 2 ? "ROLLBACK" : "COMMIT");
      await assert.rejects(session.query("SELECT 1/0"), { code: "22012" });
      const cursor = session.query(new Cursor("SELECT generate_series(1, 250) AS i"));
      let rows = 0;
      for (let part; (part = await cursor.read(100)).length > 0; ) rows += part.length;
      await cursor.close();
      assert.strictEqual(rows, 250);
    }
    const mine = await session.query("SELECT count(*)::int AS n FROM node_rows WHERE i = $1", [number]);
    assert.strictEqual(mine.rows[0].n, ROUNDS / 2);
  } finally {
    session.release();
  }
}

async function copied(pool) {
  const session = await pool.connect();
  const lines = Array.from({ length: 1000 }, (_, i) => `${i}\t-1\n`);
  await pipeline(Readable.from(lines), session.query(copy.from("COPY node_rows FROM STDIN")));
  let bytes = 0;
  for await (const part of session.query(copy.to("COPY (SELECT * FROM node_rows WHERE turn = -1) TO STDOUT")))
    bytes += part.length;
  assert.strictEqual(bytes, lines.join("").length);
  session.release();
}

async function listened(pool) {
  const listener = new Client(reached);
  await listener.connect();
  const heard = new Promise((resolve) => listener.once("notification", resolve));
  await listener.query("LISTEN node_news");
  await pool.query("SELECT pg_notify('node_news', $1)", ["zwölf"]);
  assert.strictEqual((await heard).payload, "zwölf");
  await listener.query("UNLISTEN node_news");
  await listener.end();
}

async function main() {
  const pool = new Pool({ ...reached, max: CLIENTS });
  await pool.query("DROP TABLE IF EXISTS node_rows; CREATE TABLE node_rows (i int, turn int)");
  await Promise.all(Array.from({ length: CLIENTS }, (_, number) => client(pool, number)));
  await copied(pool);
  await listened(pool);
  await pool.query("DROP TABLE node_rows");
  await pool.end();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
