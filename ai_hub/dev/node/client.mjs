// One TCP connection: start-up, password, then messages to its session.

import { randomBytes, timingSafeEqual } from 'node:crypto'
import {
  ASK_PASSWORD, AUTHENTICATION_OK, errorResponse, Framer, keyData, parameterStatus, readText, READY,
} from './protocol.mjs'
import { Session } from './session.mjs'

const NOT_SETTINGS = new Set(['user', 'database', 'replication', 'options', 'client_encoding'])
const OPTION = /(?:-c\s*|--)([\w.]+)=((?:\\.|\S)*)/g
/** Clients by their cancel key. */
const clients = new Map()

export function accept(socket, { backend, password, database, parameters, maxConnections }) {
  const framer = new Framer()
  const key = randomBytes(8)
  const name = key.toString('hex')
  let settings = null
  let session = null

  const fail = (what, code = '08P01', hint = undefined) => {
    if (!socket.destroyed) socket.end(errorResponse('FATAL', code, what, hint))
    leave()
  }
  const leave = () => {
    clients.delete(name)
    if (!session || session.closed) return
    session.closed = true
    session.dropWork()
    backend.enqueue(session)
  }

  const welcome = () => {
    session = new Session(backend, settings, { send: (bytes) => socket.write(bytes), fail })
    clients.set(name, session)
    const status = [...parameters].map(([key_, value]) => parameterStatus(key_, settings.get(key_.toLowerCase()) ?? value))
    socket.write(Buffer.concat([AUTHENTICATION_OK, ...status, keyData(key), READY]))
  }

  const login = (asked) => {
    if (clients.size >= maxConnections) return fail('too many connections', '53300')
    const wanted = asked.get('database') ?? asked.get('user')
    if (asked.get('user') !== 'postgres') return fail('the embedded TimescaleDB has one user: postgres', '28000')
    if (wanted !== database) return fail(`the embedded TimescaleDB has one database: ${database}`, '3D000')
    settings = startupSettings(asked)
    if (password) socket.write(ASK_PASSWORD)
    else welcome()
  }

  const handle = (incoming) => {
    if (incoming.type === 'encryption') socket.write('N')
    else if (incoming.type === 'cancel') cancel(socket, incoming.key, backend)
    else if (incoming.type === 'startup') login(incoming.parameters)
    else if (session) incoming.type === 'X' ? socket.end() : session.receive(incoming)
    else if (incoming.type === 'p' && same(readText(incoming.body)[0], password)) welcome()
    else fail('password authentication failed for user "postgres"', '28P01')
  }

  socket.setNoDelay(true)
  socket.on('data', (chunk) => {
    try {
      for (const incoming of framer.push(chunk)) if (!socket.writableEnded) handle(incoming)
    } catch (error) {
      fail(error.message)
    }
  })
  socket.on('error', leave)
  socket.on('close', leave)
}

function startupSettings(asked) {
  const settings = new Map()
  for (const [name, value] of asked)
    if (!NOT_SETTINGS.has(name) && !name.startsWith('_pq_.')) settings.set(name.toLowerCase(), value)
  for (const [, name, value] of (asked.get('options') ?? '').matchAll(OPTION))
    settings.set(name.toLowerCase().replaceAll('-', '_'), value.replaceAll(/\\(.)/g, '$1'))
  return settings
}

// A running statement cannot be stopped (the engine shares the thread); one that still waits can.
function cancel(socket, key, backend) {
  const session = clients.get(key)
  if (session && backend.withdraw(session)) {
    session.dropWork()
    session.send(Buffer.concat([errorResponse('ERROR', '57014', 'canceling statement due to user request'), READY]))
  }
  socket.end()
}

function same(given, expected) {
  const [a, b] = [Buffer.from(given), Buffer.from(expected)]
  return a.length === b.length && timingSafeEqual(a, b)
}
