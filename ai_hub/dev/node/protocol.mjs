// Framing of the PostgreSQL wire protocol (version 3): what a client sends, what a server answers.

const SSL_REQUEST = 80877103
const GSS_REQUEST = 80877104
const CANCEL_REQUEST = 80877102
const PROTOCOL_MAJOR = 3
const MAX_MESSAGE = 1 << 29

/** Cuts a byte stream into messages: one untyped start-up packet first, then typed ones. */
export class Framer {
  #pending = []
  #length = 0
  #started = false

  /** Add bytes; returns the complete messages so far. Throws on a length no client would send. */
  push(chunk) {
    this.#pending.push(chunk)
    this.#length += chunk.length
    const messages = []
    for (;;) {
      const header = this.#started ? 1 : 0
      if (this.#length < header + 4) return messages
      const head = this.#peek(header + 4)
      const size = header + head.readInt32BE(header)
      if (size < header + 4 || size > MAX_MESSAGE) throw new Error('not a PostgreSQL client')
      if (this.#length < size) return messages
      const bytes = this.#take(size)
      if (this.#started) {
        messages.push({ type: String.fromCharCode(bytes[0]), bytes, body: bytes.subarray(5) })
      } else {
        const message = startup(bytes)
        this.#started = message.type === 'startup'
        messages.push(message)
      }
    }
  }

  // Joining only when a message is complete keeps a large message from being copied once a chunk.
  #peek(count) {
    if (this.#pending[0].length < count) this.#pending = [Buffer.concat(this.#pending)]
    return this.#pending[0]
  }

  #take(count) {
    const all = this.#pending.length === 1 ? this.#pending[0] : Buffer.concat(this.#pending)
    this.#length -= count
    this.#pending = this.#length ? [all.subarray(count)] : []
    return all.subarray(0, count)
  }
}

function startup(bytes) {
  const code = bytes.readInt32BE(4)
  if (code === SSL_REQUEST || code === GSS_REQUEST) return { type: 'encryption' }
  if (code === CANCEL_REQUEST) return { type: 'cancel', key: bytes.subarray(8).toString('hex') }
  if (code >> 16 !== PROTOCOL_MAJOR) throw new Error('unknown protocol version')
  const words = bytes.subarray(8).toString('utf8').split('\0')
  const parameters = new Map()
  for (let i = 0; i + 1 < words.length && words[i]; i += 2) parameters.set(words[i], words[i + 1])
  return { type: 'startup', parameters }
}

/** One typed message. */
export function message(type, ...parts) {
  const body = Buffer.concat(parts.map((part) => (typeof part === 'string' ? text(part) : part)))
  const head = Buffer.alloc(5)
  head.write(type, 0, 'latin1')
  head.writeInt32BE(body.length + 4, 1)
  return Buffer.concat([head, body])
}

/** A zero-terminated string. */
export const text = (value) => Buffer.from(`${value}\0`, 'utf8')

export const int32 = (value) => {
  const bytes = Buffer.alloc(4)
  bytes.writeInt32BE(value)
  return bytes
}

/** The zero-terminated string at `offset` of `body` and where the next field starts. */
export function readText(body, offset = 0) {
  const end = body.indexOf(0, offset)
  return [body.toString('utf8', offset, end), end + 1]
}

/** A name of SQL, quoted; one with dots is of that many parts. */
export const identifier = (name) => name.split('.').map((part) => `"${part.replaceAll('"', '""')}"`).join('.')

export const query = (sql) => message('Q', sql)
export const SYNC = message('S')
export const READY = message('Z', Buffer.from('I'))
export const AUTHENTICATION_OK = message('R', int32(0))
export const ASK_PASSWORD = message('R', int32(3))
export const commandComplete = (tag) => message('C', tag)
export const parameterStatus = (name, value) => message('S', name, value)
export const keyData = (key) => message('K', key)

export function errorResponse(severity, code, what, hint) {
  const fields = [`S${severity}`, `V${severity}`, `C${code}`, `M${what}`]
  if (hint) fields.push(`H${hint}`)
  return message('E', ...fields, Buffer.from([0]))
}

/** Calls `visit(type, body)` for each message in what the server sent. */
export function* replies(bytes) {
  for (let at = 0; at + 5 <= bytes.length; ) {
    const size = 1 + bytes.readInt32BE(at + 1)
    yield { type: String.fromCharCode(bytes[at]), body: bytes.subarray(at + 5, at + size) }
    at += size
  }
}

/** Transaction status of the last ReadyForQuery that ends `bytes`: I, T, E; null when there is none. */
export function readyStatus(bytes) {
  const at = bytes.length - 6
  if (at < 0 || bytes[at] !== 0x5a || bytes.readInt32BE(at + 1) !== 5) return null
  return String.fromCharCode(bytes[at + 5])
}
