"""越来越长的一串词元，每次给出新增的文字；连起来与一次解码整串相同。讲解见 notebook 04。"""

from labutils.models.inference import clean


class GrowingText:
    """把新词元加进 ids，再调用 grown。"""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.ids: list[int] = []
        self._given = ""

    def grown(self, last: bool = False) -> str:
        """到现在为止新增的文字。last=False 时，末尾还不完整的字先留着。

        一个生僻字由几个字节词元拼成，没凑齐时解码出的是替换符，不能给读者看。
        """
        text = clean(self.tokenizer, self.ids)
        if not last:
            text = text.rstrip("\ufffd").rstrip()
        if not text.startswith(self._given):  # 后来的词元改变了前面的字：等它稳定
            return ""
        piece, self._given = text[len(self._given):], text
        return piece
