def test_console(chat): chat.page.evaluate("()=>console.error('x')")
def test_warn(chat): chat.page.evaluate("()=>console.warn('x')")
def test_error(chat): chat.page.evaluate("()=>{setTimeout(()=>{throw new Error('boo')})}")
def test_rejection(chat): chat.page.evaluate("()=>{Promise.reject(new Error('boo'))}")
def test_elsewhere(chat): chat.page.evaluate("()=>{const i=new Image(); i.src='http://evil.test/x'; document.body.append(i)}")
def test_dialog(chat): chat.page.evaluate("()=>{alert(1)}")
def test_inline(chat): chat.page.evaluate("()=>{const b=document.createElement('img'); b.setAttribute('onerror','alert(1)'); b.src='data:x'; document.body.append(b)}")
def test_popup(chat, window):
    p=window.new_page(); p.goto('/'); p.evaluate("()=>console.error('second')")
