// What belongs to one client: its pending messages, prepared statements and session settings.
//
// The backend has one session for everyone, so names of prepared statements are made unique per client, and
// settings made with SET are taken away and put back when the turn passes to another client.

import { commandComplete, message, query, readText, readyStatus, SYNC } from './protocol.mjs'

const ENDS_UNIT = new Set(['Q', 'S', 'H', 'F'])
const COPY_DATA = new Set(['d', 'c', 'f'])
const COPY_IN = /^\s*copy\b[^;]*\bfrom\s+stdin\b/i
const DEALLOCATE = /^\s*deallocate\s+(?:prepare\s+)?("?)([^"\s;]+)\1\s*;?\s*$/i
const RESET = /\breset\s+(?:all|search_path|enable_seqscan|client_min_messages|log_min_messages)\b/i
const DISCARD = /^\s*discard\s+all\s*;?\s*$/i
const TEMPORARY = /\b(?:create\s+(?:(?:global|local)\s+)?|into\s+)temp/i
const SET = /(?:^|;)\s*set\s+(?:session\s+)?(?!local\b|transaction\b|session\b)([a-z_][\w.]*)\s*(?:=|\bto\b)/gi
const SET_CONFIG = /\bset_config\s*\(\s*'([^']+)'/gi
const SPECIAL = [
  [/(?:^|;)\s*set\s+(?:session\s+)?role\b/i, 'role'],
  [/(?:^|;)\s*set\s+(?:session\s+)?session\s+authorization\b/i, 'session_authorization'],
  [/(?:^|;)\s*set\s+(?:session\s+)?time\s+zone\b/i, 'timezone'],
]
// Reading copy data would exhaust the engine's input and kill it, so it is told to raise instead.
const REFUSE_COPY_IN = `DO $refuse$ BEGIN RAISE EXCEPTION 'COPY FROM STDIN does not work on the embedded TimescaleDB'
  USING ERRCODE = '0A000', HINT = 'Write with INSERT ... SELECT FROM unnest(...), which works on every server.';
END $refuse$`

let lastId = 0
const literal = (value) => `'${value.replaceAll("'", "''")}'`

export class Session {
  #backend
  #inbox = []
  #id = (lastId += 1)
  #statements = new Map()
  #statementCount = 0
  #unnamed = null
  #settings
  #temporary = false
  #started = false

  closed = false

  /** `settings`: the start-up parameters; `send(bytes)`; `fail(text, code)` ends the connection. */
  constructor(backend, settings, { send, fail }) {
    this.#backend = backend
    this.#settings = settings
    this.send = send
    this.fail = fail
  }

  receive(incoming) {
    if (COPY_DATA.has(incoming.type)) return // the rest of a COPY that was refused
    this.#inbox.push(incoming)
    if (ENDS_UNIT.has(incoming.type)) this.#backend.enqueue(this)
  }

  hasWork() {
    return this.#inbox.some(({ type }) => ENDS_UNIT.has(type))
  }

  dropWork() {
    this.#inbox = []
  }

  /** A function that runs the next messages which belong together and returns the answer, or null. */
  nextUnit() {
    const end = this.#inbox.findIndex(({ type }) => ENDS_UNIT.has(type))
    if (end < 0) return null
    const unit = this.#inbox.splice(0, end + 1)
    return () => (unit[0].type === 'Q' ? this.#simple(unit[0]) : this.#extended(unit))
  }

  async #simple({ bytes, body }) {
    const [sql] = readText(body)
    if (COPY_IN.test(sql)) return this.#backend.run(query(REFUSE_COPY_IN))
    const [, , name] = DEALLOCATE.exec(sql) ?? []
    if (name?.toLowerCase() === 'all') return this.#deallocate([...this.#statements.keys()], 'DEALLOCATE ALL')
    if (this.#statements.has(name)) return this.#deallocate([name], 'DEALLOCATE')
    if (DISCARD.test(sql)) return this.#discard()
    this.#note(sql)
    this.#backend.unnamed = null
    const answer = await this.#backend.run(bytes)
    if (RESET.test(sql) && readyStatus(answer) === 'I') await this.#backend.restoreDefaults()
    return answer
  }

  async #extended(unit) {
    const [first] = unit
    const again = this.#needsUnnamed(first) && this.#unnamed && this.#backend.unnamed !== this
    if (again) await this.#backend.run(Buffer.concat([this.#unnamed, message('H')]))
    return this.#backend.run(Buffer.concat(unit.map((part) => this.#rename(part))))
  }

  #needsUnnamed({ type, body }) {
    if (type === 'B') return readText(body, readText(body)[1])[0] === ''
    return type === 'D' && body[0] === 0x53 && body[1] === 0
  }

  /** The message with this client's statement names made unique. */
  #rename({ type, bytes, body }) {
    if (type === 'P') return this.#parse(bytes, body)
    if (type === 'B') {
      const [portal, at] = readText(body)
      const [statement, rest] = readText(body, at)
      const known = this.#statements.get(statement)
      return known ? message('B', portal, known, body.subarray(rest)) : bytes
    }
    if ((type === 'D' || type === 'C') && body[0] === 0x53) {
      const [statement] = readText(body, 1)
      const known = this.#statements.get(statement)
      if (type === 'C') this.#statements.delete(statement)
      return known ? message(type, Buffer.from('S'), known) : bytes
    }
    return bytes
  }

  #parse(bytes, body) {
    const [statement, at] = readText(body)
    const [sql, rest] = readText(body, at)
    this.#note(sql)
    const text = COPY_IN.test(sql) ? REFUSE_COPY_IN : sql
    if (!statement) {
      this.#unnamed = bytes
      this.#backend.unnamed = this
      return text === sql ? bytes : message('P', '', text, body.subarray(rest))
    }
    const unique = this.#statements.get(statement) ?? `c${this.#id}_${(this.#statementCount += 1)}`
    this.#statements.set(statement, unique)
    return message('P', unique, text, body.subarray(rest))
  }

  /** Remembers which session settings and temporary tables a statement makes. */
  #note(sql) {
    for (const pattern of [SET, SET_CONFIG])
      for (const [, name] of sql.matchAll(pattern)) this.#remember(name)
    for (const [pattern, name] of SPECIAL) if (pattern.test(sql)) this.#remember(name)
    this.#temporary ||= TEMPORARY.test(sql)
  }

  #remember(name) {
    const key = name.toLowerCase()
    if (!this.#settings.has(key)) this.#settings.set(key, null)
  }

  async #deallocate(names, tag) {
    const closing = names.map((name) => message('C', Buffer.from('S'), this.#statements.get(name)))
    for (const name of names) this.#statements.delete(name)
    const answer = await this.#backend.run(Buffer.concat([...closing, SYNC]))
    const ready = answer.subarray(answer.length - 6)
    return Buffer.concat([commandComplete(tag), ready])
  }

  async #discard() {
    await this.#clearSettings()
    this.#settings.clear()
    if (this.#temporary) await this.#backend.rows('DISCARD TEMP')
    this.#temporary = false
    return this.#deallocate([...this.#statements.keys()], 'DISCARD ALL')
  }

  /** Takes this client's settings away before another one has its turn. */
  async suspend() {
    const names = [...this.#settings.keys()]
    if (!names.length) return
    const [values] = await this.#backend.rows(
      `SELECT ${names.map((name) => `current_setting(${literal(name)}, true)`).join(', ')}`,
    )
    names.forEach((name, i) => {
      // What a failed statement or a rolled back transaction named is no setting.
      if (values[i] === null) this.#settings.delete(name)
      else this.#settings.set(name, values[i])
    })
    await this.#clearSettings()
  }

  #clearSettings() {
    return this.#backend.restoreDefaults([...this.#settings.keys()])
  }

  /** Puts this client's settings back. Throws what the server says about a wrong start-up parameter. */
  async resume() {
    const made = [...this.#settings]
      .filter(([, value]) => value !== null)
      .map(([name, value]) => `set_config(${literal(name)}, ${literal(value)}, false)`)
    try {
      if (made.length) await this.#backend.rows(`SELECT ${made.join(', ')}`)
    } catch (error) {
      if (!this.#started) {
        await this.#clearSettings()
        throw error
      }
      for (const each of made) await this.#backend.attempt(`SELECT ${each}`)
    }
    this.#started = true
  }

  /** Frees what a departed client left in the backend. */
  async forget() {
    if (this.#statements.size) await this.#deallocate([...this.#statements.keys()], '')
    if (this.#temporary) await this.#backend.attempt('DISCARD TEMP')
  }
}
