// The one PostgreSQL backend and whose turn it is.
//
// PGlite has a single session. Connections take turns: one keeps the backend from the first message of a
// transaction (or of an extended-protocol exchange) to its end, everyone else waits in line.

import { identifier, query, readText, readyStatus, replies, SYNC } from './protocol.mjs'

// The build starts with debug chatter on, sequential scans off and a search path of pg_catalog alone; these are
// PostgreSQL's own defaults.
const DEFAULTS = { search_path: 'public', enable_seqscan: 'on', client_min_messages: 'notice', log_min_messages: 'warning' }

const CHECKPOINT_EVERY_MS = 30_000
const CHECKPOINT_WAL_BYTES = 64 << 20

export class Backend {
  #db
  #owner = null
  #active = null
  #line = []
  #turning = false
  #closing = false
  #idleTimer = null
  #checkpointed = '0/0'
  #idleLimit

  /** `idleLimit`: milliseconds a transaction may idle while others wait. */
  constructor(db, idleLimit) {
    this.#db = db
    this.#idleLimit = idleLimit
    setInterval(() => this.#checkpoint(), CHECKPOINT_EVERY_MS).unref()
  }

  /** Session whose unnamed prepared statement the backend holds. */
  unnamed = null

  /** Runs wire messages and returns the raw answer. A crash of the WASM engine ends the process. */
  async run(bytes) {
    try {
      return Buffer.from(await this.#db.execProtocolRaw(bytes))
    } catch (error) {
      console.error('the database engine crashed; the data folder is recovered at the next start:', error)
      process.exit(70)
    }
  }

  /** Rows of one internal statement, as arrays of text; throws with the server's message. */
  async rows(sql) {
    const found = []
    this.unnamed = null
    for (const { type, body } of replies(await this.run(query(sql)))) {
      if (type === 'E') throw new Error(errorText(body))
      if (type === 'D') found.push(columns(body))
    }
    return found
  }

  /** Runs one internal statement whose failure does not matter. */
  async attempt(sql) {
    try {
      await this.rows(sql)
    } catch (error) {
      console.error(`${sql.split(/\s+/, 1)}: ${error.message}`)
    }
  }

  /** Takes these settings away, and sets what a RESET must come back to. */
  async restoreDefaults(names = []) {
    const resets = names.map((name) => `RESET ${identifier(name)}`)
    const defaults = Object.entries(DEFAULTS).map(([name, value]) => `SET ${name} = '${value}'`)
    try {
      await this.rows([...resets, ...defaults].join('; '))
    } catch {
      for (const statement of resets) await this.attempt(statement)
      await this.rows(defaults.join('; '))
    }
  }

  /** Session `session` has something to run. */
  enqueue(session) {
    if (session !== this.#owner && !this.#line.includes(session)) this.#line.push(session)
    this.#turn()
  }

  /** Takes a waiting session out of the line; false when it is not waiting. */
  withdraw(session) {
    const place = this.#line.indexOf(session)
    if (place >= 0) this.#line.splice(place, 1)
    return place >= 0
  }

  async #turn() {
    if (this.#turning || this.#closing) return
    this.#turning = true
    while (!this.#closing) {
      const session = this.#owner ?? this.#line.shift()
      if (!session) break
      if (session.closed) {
        await this.#retire(session)
        continue
      }
      const unit = session.nextUnit()
      if (!unit) {
        if (!this.#owner) continue
        this.#watchIdleOwner()
        break
      }
      clearTimeout(this.#idleTimer)
      await this.#serve(session, unit)
      // Let sockets be read between two units, so a waiting client is never starved.
      await new Promise(setImmediate)
    }
    this.#turning = false
  }

  async #serve(session, unit) {
    try {
      if (this.#active !== session) await this.#switchTo(session)
    } catch (error) {
      session.fail(error.message)
      return
    }
    const answer = await unit()
    const status = readyStatus(answer)
    this.#owner = status === 'I' ? null : session
    session.send(answer)
    if (!this.#owner && session.hasWork()) this.#line.push(session)
  }

  async #switchTo(session) {
    if (this.#active) await this.#active.suspend()
    this.#active = null
    await session.resume()
    this.#active = session
  }

  /** Ends what a client that went away left behind: its transaction, settings and statements. */
  async #retire(session) {
    if (session === this.#owner) {
      await this.run(SYNC)
      await this.run(query('ROLLBACK'))
      this.#owner = null
    }
    if (session === this.#active) {
      await session.suspend()
      this.#active = null
    }
    await session.forget()
  }

  // No background process does it here, and without it the log grows and a restart replays all of it.
  async #checkpoint() {
    if (this.#turning || this.#closing || this.#owner || this.#line.length) return
    this.#turning = true
    const [[position, bytes]] = await this.rows(
      `SELECT pg_current_wal_lsn(), pg_wal_lsn_diff(pg_current_wal_lsn(), '${this.#checkpointed}')::bigint`,
    )
    if (Number(bytes) > CHECKPOINT_WAL_BYTES) {
      await this.rows('CHECKPOINT')
      this.#checkpointed = position
    }
    this.#turning = false
    this.#turn()
  }

  // One client that sits in a transaction stops all others, so it is cut off once somebody waits too long.
  #watchIdleOwner() {
    clearTimeout(this.#idleTimer)
    this.#idleTimer = setTimeout(() => {
      if (!this.#owner) return
      if (this.#line.length) this.#owner.fail('terminating connection: idle in transaction while others wait', '25P03')
      else this.#watchIdleOwner()
    }, this.#idleLimit)
    this.#idleTimer.unref()
  }

  /** Waits for a running statement, then shuts the database down with a checkpoint. */
  async close() {
    this.#closing = true
    while (this.#turning) await new Promise(setImmediate)
    await this.#db.close()
  }
}

function errorText(body) {
  for (let at = 0; body[at]; ) {
    const field = String.fromCharCode(body[at])
    const [value, next] = readText(body, at + 1)
    if (field === 'M') return value
    at = next
  }
  return 'unknown error'
}

function columns(body) {
  const values = []
  let at = 2
  for (let i = body.readInt16BE(0); i > 0; i -= 1) {
    const size = body.readInt32BE(at)
    at += 4
    values.push(size < 0 ? null : body.toString('utf8', at, at + Math.max(size, 0)))
    at += Math.max(size, 0)
  }
  return values
}
